def pictures(*a): return []
