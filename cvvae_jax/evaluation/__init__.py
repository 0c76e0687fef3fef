"""Models measured by one protocol, and what is reported of them."""
