"""Performance models, one file each: what is believed about runtimes."""
