"""torchrelay: each package here is the folder of its name at the top of the repository."""
