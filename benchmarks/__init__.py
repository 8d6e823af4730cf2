"""Speed, as ratios measured in one run: this machine's own limits and other libraries, in turn."""
