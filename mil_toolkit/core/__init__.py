"""The base of every other folder: files, processes, devices, seeds, text, cells. It knows no patients."""
