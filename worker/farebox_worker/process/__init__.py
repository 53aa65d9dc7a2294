"""One worker process: what drives its dispatch, keeps its leases, and does chores for the fleet."""
