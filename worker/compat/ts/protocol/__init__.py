"""How answers leave a handler."""
