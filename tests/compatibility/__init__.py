"""Our server held against the real TorchServe: what it answered, recorded or asked anew."""
