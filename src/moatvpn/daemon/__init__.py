"""moatd: what joins the IKE core, the ESP engine and the drivers."""
