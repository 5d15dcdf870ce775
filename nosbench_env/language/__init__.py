"""The language: what programs are. Nothing here runs or trains one."""
