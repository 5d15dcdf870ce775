"""Studies: measurements of the benchmark itself, each a command of `nosbench study`."""
