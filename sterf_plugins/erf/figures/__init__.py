"""What is drawn of a field, and how it is put into words."""
