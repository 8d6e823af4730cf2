"""Configurations: get_config(variant) -> ConfigDict. Each file shows only what differs from its parent."""
