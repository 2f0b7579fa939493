"""How long a boot waits for the module, and what it costs: ``make bench``."""
