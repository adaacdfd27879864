"""What providers call: each proves who it is, and reports what came back."""
