"""The torchrelay command: composes the processes and talks to them over REST."""
