"""The steps, in order of their names. One that was released is never changed."""
