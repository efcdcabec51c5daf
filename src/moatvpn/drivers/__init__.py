"""The only sockets, devices and clocks of the package."""
