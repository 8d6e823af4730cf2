"""Internal: what any module may use. Pytrees of dataclasses, broadcasting, files, guarded readers of archives."""
