"""The small models: found or brought, checked, loaded."""
