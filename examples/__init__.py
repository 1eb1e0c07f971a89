"""Small programs that hash layers of well-known architectures."""
