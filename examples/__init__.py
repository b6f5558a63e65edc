"""Code that users of fedbus would write, small enough to be read whole."""
