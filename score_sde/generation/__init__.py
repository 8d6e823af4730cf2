"""Generation: images drawn in batches over devices, and the files to which they are written."""
