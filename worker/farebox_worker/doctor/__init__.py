"""Looks at everything a run needs, and says what is wrong and what to do. It reads only, and begins nothing."""
