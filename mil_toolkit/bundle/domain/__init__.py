"""Description of the training patients in a bundle, and the comparison of new patients with them."""
