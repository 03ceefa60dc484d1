"""What a bundle knows of its training patients, and whether new patients are like them."""
