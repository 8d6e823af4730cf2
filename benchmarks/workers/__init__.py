"""Programs that time themselves on request. Each runs in its own process, and if needed in its own interpreter."""
