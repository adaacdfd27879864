"""What `ops doctor` looks at, one module a matter. Each reads facts, then judges those alone."""
