"""The corporation's policy for a moat: what of the private side may go straight to the internet."""
