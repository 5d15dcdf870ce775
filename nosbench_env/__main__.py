"""`python -m nosbench_env` is the command `nosbench`."""

from nosbench_env.cli.app import main

main()
