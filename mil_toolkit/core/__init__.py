"""What every other folder builds on: files, locks, processes, devices, seeds and text; knows no patients."""
