"""Of the programs that the servers under test run."""
