"""Model versions: published once, resolved by name, loaded whole or not at all."""
