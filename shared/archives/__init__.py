"""Model archives: read, checked, unpacked, made."""
