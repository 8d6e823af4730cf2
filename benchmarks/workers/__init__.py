"""Programs that time themselves on request; each runs in a process, and if need be an interpreter, of its own."""
