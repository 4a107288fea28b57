"""What is installed, which devices and models there are, what is broken and how to mend it."""
