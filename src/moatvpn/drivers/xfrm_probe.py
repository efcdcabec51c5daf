"""Can this kernel do ESP? Asked by giving it an SA, and taking it back at once."""

from __future__ import annotations

import os

from moatvpn.drivers.xfrm_messages import KernelSa
from moatvpn.drivers.xfrm_socket import XfrmSocket, no_kernel_ipsec
from moatvpn.wire.algorithms import DEFAULT_SUITES

# Nobody's addresses (RFC 5737), and an SPI that is not for use on the wire (RFC 4303, 2.1).
_NOWHERE, _FROM = "192.0.2.1", "192.0.2.2"
_SPI = 255


def probe() -> None:
    """Raise OperatorError where the kernel does not take the SAs that we offer first."""
    xfrm = XfrmSocket(1)
    try:
        for suite in DEFAULT_SUITES:
            key = os.urandom(suite.material_length)
            sa = KernelSa(_FROM, _NOWHERE, _SPI, 1, 1, suite, key, True, True, None)
            try:
                xfrm.delete(sa)  # of a daemon that ended here
                xfrm.add(sa)
            except OSError as error:
                raise no_kernel_ipsec(error) from error
            finally:
                xfrm.delete(sa)
    finally:
        xfrm.close()
