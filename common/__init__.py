"""Folders, random streams and result files shared by `theory` and `llm`."""
