"""What ckpt can do, as library functions that return reports. They print nothing."""
