"""The fork server, which imports torch once and forks workers, and what is said to it."""
