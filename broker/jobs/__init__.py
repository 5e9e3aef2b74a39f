"""Jobs from their arrival to their end: queues, batches, leases, retries. Pure."""
