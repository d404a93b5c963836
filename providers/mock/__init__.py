"""A paid upstream's double: speaks the three languages, misbehaves on request, and keeps an exact bill."""
