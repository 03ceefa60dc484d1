"""The base of every other folder: files, locks, processes, devices, seeds and text. It knows no patients."""
