"""The node of a host: offers its devices, starts, watches and stops workers. Never imports torch."""
