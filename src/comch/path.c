/* Where channels live; path.h has the order of the directories. Any thread. */
#include "comch/path.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/error.h"

#define NAME_BYTES_MAX  64
#define DIRECTORIES_MAX 3
#define DIRECTORY_BYTES SL_COMCH_PATH_BYTES_MAX

struct directories {
    unsigned count;
    char paths[DIRECTORIES_MAX][DIRECTORY_BYTES];
};

static bool name_is_sound(const char *name)
{
    size_t length = strlen(name);
    if (length == 0 || length > NAME_BYTES_MAX || name[0] == '.')
        return false;
    for (size_t i = 0; i < length; i++) {
        if (!isalnum((unsigned char)name[i]) && strchr("._-", name[i]) == NULL)
            return false;
    }
    return true;
}

static int directory_add(struct directories *directories, const char *prefix, const char *suffix)
{
    char *to = directories->paths[directories->count];
    int length = snprintf(to, DIRECTORY_BYTES, "%s%s", prefix, suffix);
    if (length < 0 || length >= DIRECTORY_BYTES)
        return -ENAMETOOLONG;
    directories->count++;
    return 0;
}

static int directories_list(struct directories *directories)
{
    directories->count = 0;
    const char *own = getenv("SLUICE_RUNTIME_DIR");
    if (own != NULL && own[0] != '\0')
        return directory_add(directories, own, "");
    (void)directory_add(directories, "/run/sluice", "");
    const char *session = getenv("XDG_RUNTIME_DIR");
    /* One that is too long is no good for sockets: the next is taken. */
    if (session != NULL && session[0] == '/')
        (void)directory_add(directories, session, "/sluice");
    char user[16];
    snprintf(user, sizeof(user), "%u", geteuid());
    return directory_add(directories, "/tmp/sluice-", user);
}

/* Makes it unless it is there. 0 if sockets can be made in it. What others could have put into /tmp
 * in our name is refused. */
static int directory_prepare(const char *path)
{
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return -errno;
    struct stat status;
    if (lstat(path, &status) < 0)
        return -errno;
    if (strncmp(path, "/tmp/sluice-", 12) == 0 &&
        (!S_ISDIR(status.st_mode) || status.st_uid != geteuid() || (status.st_mode & 0022) != 0))
        return -EACCES;
    return access(path, W_OK | X_OK) < 0 ? -errno : 0;
}

static int path_fill(const char *directory, const char *name, char *path)
{
    int length = snprintf(path, SL_COMCH_PATH_BYTES_MAX, "%s/%s.comch", directory, name);
    return length < 0 || length >= SL_COMCH_PATH_BYTES_MAX ? -ENAMETOOLONG : 0;
}

int sl_comch_path(const char *name, bool create, char path[static SL_COMCH_PATH_BYTES_MAX])
{
    struct directories directories;
    if (!name_is_sound(name))
        return -EINVAL;
    int error = directories_list(&directories);
    if (error < 0)
        return error;
    for (unsigned i = 0; i < directories.count; i++) {
        error = create ? directory_prepare(directories.paths[i]) : 0;
        if (error == 0)
            error = path_fill(directories.paths[i], name, path);
        if (error == 0 && (create || access(path, F_OK) == 0))
            return 0;
    }
    /* A client is told by its connect that there is none. */
    return create ? error : path_fill(directories.paths[0], name, path);
}
