"""The language of programs. Nothing here runs or trains one."""
