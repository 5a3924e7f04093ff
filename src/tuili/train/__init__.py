"""Training: on one device, or in data, pipeline and tensor parallel on many."""
