"""Reading and writing, safely."""
