/* What the machines assert is one more thing that the explorer looks for. */
#undef assert
#ifdef NDEBUG
#define assert(holds) ((void)0)
#else
void explore_violation(const char *what);
#define assert(holds) ((holds) ? (void)0 : explore_violation("assert: " #holds))
#endif
