"""The commands of `torchrelay`, a module each."""
