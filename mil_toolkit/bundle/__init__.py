"""The model that leaves: fitting, saving, describing and applying it."""
