"""How a moat that nobody reaches from outside becomes a customer's, and gets its settings."""
