"""What the vision pipeline is compared with, and the pictures all of them get."""
