"""A question's words choose the tasks."""
