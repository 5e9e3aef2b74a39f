"""What the servers under test run: the same models, each in the form that a server takes."""
